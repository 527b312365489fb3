"""Parallelism backends: one process, replicas (DDP), or pieces (FSDP)."""
