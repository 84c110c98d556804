"""Statistics: accuracies, frontiers and paired comparisons, with their intervals."""
