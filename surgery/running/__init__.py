"""Independent tasks, on processes of this machine or on a cluster."""

from surgery.running.dask_cluster import cluster
from surgery.running.outcomes import Runner
from surgery.running.processes import default_processes, local
from surgery.running.task import Done, Failure, File, Outcome, Task

__all__ = ["Done", "Failure", "File", "Outcome", "Runner", "Task", "cluster", "default_processes", "local"]
