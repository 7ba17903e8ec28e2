"""What agents pushed to a run: as Parquet, Minari or RLDS, and from Parquet into a run."""

from auxilium_rl.agent.datasets.exported import Exported
from auxilium_rl.agent.datasets.importing import import_experience
from auxilium_rl.agent.datasets.minari import export_minari
from auxilium_rl.agent.datasets.parquet import export_experience
from auxilium_rl.agent.datasets.rlds import export_rlds
from auxilium_rl.agent.datasets.summary import Summary, summary

__all__ = [
    "Exported",
    "Summary",
    "export_experience",
    "export_minari",
    "export_rlds",
    "import_experience",
    "summary",
]
