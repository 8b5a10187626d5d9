"""A study in the tools people have open: Ray metrics, Optuna dashboard, TensorBoard, MLflow, W&B."""
