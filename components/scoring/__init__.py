"""Batch prediction of files: rows are cut into parts, Beam's workers answer the parts, and the answers are joined."""
