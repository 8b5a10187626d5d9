"""What tests share: references to compare with, factories, simulated studies."""
