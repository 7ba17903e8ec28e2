"""What the product stands on: settings, logging, SQL, model store, environment adapters, executors."""
