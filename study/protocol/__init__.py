"""The question, its budget, what is written down and the rules that read it: no torch, no Ray, no Optuna."""
