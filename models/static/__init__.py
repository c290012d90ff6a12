"""Token embeddings distilled from a transformer's vocabulary, their mean, and one hidden layer."""
