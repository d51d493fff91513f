"""Knowledge distillation in JAX: fine-tune a teacher, distil a student, prove what was gained."""

__version__ = "0.1.0"
