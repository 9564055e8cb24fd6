"""Helper package of the fine-tuning course: one module per idea, no state, no notebook magic."""
