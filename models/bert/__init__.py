"""BERT: its weights, vocabulary and tokeniser, the training graph and the served graph."""
