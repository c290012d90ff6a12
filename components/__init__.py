"""TFX stages, one a file."""
