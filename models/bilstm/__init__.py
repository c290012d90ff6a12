"""Embedding and bidirectional LSTM, trained from nothing over a vocabulary of the training rows."""
