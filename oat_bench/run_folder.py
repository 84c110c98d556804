"""The folder of a run: which file is what."""

CHECKPOINT = "checkpoint.safetensors"
ENTRY = "entry.json"
OUTCOMES = "outcomes.parquet"
REPORT = "report.md"
TABLES = ("table.md", "table.csv", "table.tex")
INTEGRITY = "integrity.json"
CARD = "card.toml"  #: what the run was made by, `--benchmark` reads it
#: of training: the history, the splits, and what a killed run goes on from
LOG, SPLITS, STATE = "log.csv", "splits.json", "training.safetensors"
#: folders: outcomes cell by cell, attacked images, figures
STORE, IMAGES, FIGURES = "outcomes", "images", "figures"
