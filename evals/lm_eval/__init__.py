"""A plug-in for EleutherAI's lm-eval: any ``evals.model.Model`` as one of its models, our tasks as its tasks.

Importing this imports nothing of lm-eval; ``model`` and ``tasks`` do, and need ``pip install "rmt-memory[lm-eval]"``::

    from evals.lm_eval.model import RecurrentLM
    from evals.lm_eval.tasks import tasks
    from lm_eval import simple_evaluate

    simple_evaluate(RecurrentLM(model), tasks=["arc_easy", *tasks(["qa1"], source, lengths=[4_000], n=32)])
"""
