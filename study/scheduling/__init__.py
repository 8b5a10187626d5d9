"""What runs next and what a search proposes, decided from the ledger alone. Optuna, and nothing of Ray."""
