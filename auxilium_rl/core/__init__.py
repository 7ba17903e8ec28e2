"""What the product knows: runs, algorithms, training, policies. Imports neither transport nor infra."""
