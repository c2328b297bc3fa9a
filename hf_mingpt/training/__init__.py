"""Recipes, presets and the one loop of pretraining and finetuning."""
