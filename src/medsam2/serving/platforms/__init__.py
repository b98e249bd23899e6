"""The contract on other servers: Azure ML, MLflow, Ray Serve."""
