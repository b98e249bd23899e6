"""The contract on servers of others: Azure ML, MLflow, Ray Serve."""
