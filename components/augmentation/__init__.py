"""More training texts from those there are: words changed, typing errors, and what a command of the user's writes."""
