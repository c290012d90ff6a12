"""XLM-RoBERTa and its kin: BERT's network over a SentencePiece vocabulary, as a folder in the Hugging Face layout."""
