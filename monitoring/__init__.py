"""What the loop around a served model needs: windows of records, what changed in them, and the way back to the data."""
