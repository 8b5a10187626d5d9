"""The study: search every arm equally, confirm with fresh seeds, keep a ledger of what it cost."""
