"""Methods: a file for each kind of tunable classifier; `oat_bench.registry` names them."""
