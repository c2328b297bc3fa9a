"""Training: recipes, presets, and the loop of pretraining and finetuning."""
