"""From ledger to verdict: pure functions of what a study wrote down. Imports no torch and no ray."""
