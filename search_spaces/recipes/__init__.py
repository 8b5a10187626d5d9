"""One file here = one recipe: what every arm of a study is trained with (../README.md: write a recipe)."""
