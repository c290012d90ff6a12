"""The search for hyperparameters: what is searched, the trials and where they are kept."""
