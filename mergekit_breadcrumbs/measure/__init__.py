"""What a merge does to the tensors of its models, without writing any."""
