"""Fine-tuning: trained weights go on with small learning rates, the new head with a larger one. Also fit for scratch.

The default where all arms begin from trained weights. Axes and ranges follow Quick-Tune (Pineda Arango et al. 2024,
arXiv:2306.03828, its search space): share of layers frozen, layer-wise decay of none, 0.75 or 0.65 (Bao et al. 2022,
arXiv:2106.08254), AdamW or SGD; SGD's rates are the grid of Kornblith et al. 2019 (arXiv:1805.08974), 1e-4 to 0.1. An arm without
trained weights in the same study finds scratch training in them: rates up to 0.1, no layer-wise decay, nothing frozen; its
settings are among the first proposals of all. The default is AdamW at 3e-4 with a head ten times as fast.
"""

from search_spaces import Choice, Float, Known, Recipe

ADAMW, SGD = {"optimizer": ("adamw",)}, {"optimizer": ("sgd",)}
RECIPE = Recipe(
    about="Fine-tuning by AdamW or SGD, with learning rates for body and head, layer-wise decay and frozen layers. It does not cover "
    "adapters, distillation or heads of several layers; of regularisation, only label smoothing, mixup and stochastic depth",
    warmup=0.1,
    space={
        "optimizer": Choice(options=("adamw", "sgd"), default="adamw"),
        "adamw_lr": Float(low=1e-5, high=1e-2, default=3e-4, log=True, when=ADAMW),
        "adamw_weight_decay": Float(low=1e-4, high=0.3, default=0.01, log=True, when=ADAMW),
        "lr": Float(low=1e-4, high=0.1, default=0.01, log=True, when=SGD),
        "weight_decay": Float(low=1e-6, high=5e-3, default=1e-4, log=True, when=SGD),
        "head_factor": Float(low=1.0, high=30.0, default=10.0, log=True),
        "layer_decay": Choice(options=(1.0, 0.75, 0.65), default=1.0),
        "frozen": Choice(options=(0.0, 0.5, 1.0), default=0.0),
        "clip": Choice(options=(0.0, 1.0), default=1.0),
        "label_smoothing": Float(low=0.0, high=0.2, default=0.1),
        "augment": Choice(options=("flip", "flip+crop", "flip+rotate", "trivial"), default="flip+crop"),
        "mixup": Choice(options=(0.0, 0.2), default=0.0),
        "batch_size": Choice(options=(16, 32, 64, 128), default=32),
    },
    offers={"drop_path": Float(low=0.0, high=0.3, default=0.0)},
    known=(
        Known(
            config={
                "optimizer": "sgd",
                "lr": 0.005,
                "weight_decay": 1e-4,
                "batch_size": 128,
                "head_factor": 1.0,
                "clip": 0.0,
                "label_smoothing": 0.0,
            },
            source="Li et al. 2020, arXiv:2002.11770, section 1: the usual fine-tuning of ResNets, learning rate 0.01 per 256 images, "
            "momentum 0.9, weight decay 1e-4",
        ),
        Known(
            config={"adamw_lr": 1e-4, "adamw_weight_decay": 1e-3, "batch_size": 128, "layer_decay": 0.75},
            source="AutoGluon 1.x MultiModal's defaults for images: AdamW at 1e-4, weight decay 1e-3, clipping at 1, layer-wise decay "
            "0.9, of which ours is the nearest",
        ),
        Known(
            config={
                "optimizer": "sgd",
                "lr": 0.1,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "head_factor": 1.0,
                "clip": 0.0,
                "label_smoothing": 0.0,
            },
            source="from scratch: Zagoruyko & Komodakis 2016, arXiv:1605.07146, section 3, as in the recipe sgd; it also shows what "
            "trained weights are worth where they must change much",
        ),
    ),
)
