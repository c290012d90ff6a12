"""Which recipe suits which data: methods x data sets x seeds, and docs/recipes.md written from what was measured."""
