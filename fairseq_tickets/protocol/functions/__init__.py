"""What steps do. Only here, and in a step's own process, fairseq is loaded."""
