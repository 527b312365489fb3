"""The method `lora`: low-rank adapters beside frozen weights."""
