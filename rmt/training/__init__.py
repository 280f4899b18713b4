"""Training: typed settings, a curriculum over segments, and a Trainer that follows it."""

from rmt.training.curriculum import Curriculum
from rmt.training.settings import override
from rmt.training.trainer import CurriculumTrainer, NumberedBatches, last_checkpoint

__all__ = ["Curriculum", "CurriculumTrainer", "NumberedBatches", "last_checkpoint", "override"]
