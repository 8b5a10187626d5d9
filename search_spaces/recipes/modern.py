"""Training from scratch as for ConvNeXt, DeiT and Swin: AdamW or SGD, mixed and erased images, clipping, averaged weights.

For comparisons that hold transformers or recent convolutional nets, which SGD alone trains badly. Ranges reach from no
regularisation, which short runs and small nets need, to the published amounts for 300 epochs of ImageNet. The default is AdamW
with weight decay 0.05 and clipping at 1 (Steiner et al. 2021, arXiv:2106.10270, section 3.3, and Liu et al. 2022), label smoothing
0.1, and nothing mixed. Its rate, 3e-3 at batches of 32, is above the 1e-3 that they use for long runs: a study's runs are short
(tiny_resnet on digits, 5 epochs: 50 % at 1e-3, 72 % at 3e-3, 81 % at 5e-3). Averages begin young, so that early rungs rank.
"""

from search_spaces import Choice, Float, Known, Recipe

ADAMW, SGD = {"optimizer": ("adamw",)}, {"optimizer": ("sgd",)}
RECIPE = Recipe(
    about="AdamW or SGD from scratch with mixup, CutMix, random erasing, clipping and averaged weights, as for ConvNeXt and DeiT. It "
    "does not cover trained weights, repeated augmentation, other optimizers or resolutions that change during a run",
    warmup=0.1,
    space={
        "optimizer": Choice(options=("adamw", "sgd"), default="adamw"),
        "adamw_lr": Float(low=1e-4, high=2e-2, default=3e-3, log=True, when=ADAMW),
        "adamw_weight_decay": Float(low=1e-3, high=0.3, default=0.05, log=True, when=ADAMW),
        "lr": Float(low=0.005, high=1.0, default=0.1, log=True, when=SGD),
        "weight_decay": Float(low=1e-5, high=5e-3, default=5e-4, log=True, when=SGD),
        "clip": Choice(options=(0.0, 1.0, 5.0), default=1.0),
        "label_smoothing": Float(low=0.0, high=0.2, default=0.1),
        "augment": Choice(options=("flip", "flip+crop", "flip+rotate", "trivial"), default="flip+crop"),
        "mixup": Choice(options=(0.0, 0.2, 0.8), default=0.0),
        "cutmix": Choice(options=(0.0, 1.0), default=0.0),
        "erase": Choice(options=(0.0, 0.25), default=0.0),
        "averaging": Choice(options=(0.0, 0.99, 0.999), default=0.99),
        "batch_size": Choice(options=(32, 64, 128, 256), default=32),
    },
    offers={"drop_path": Float(low=0.0, high=0.3, default=0.0)},
    known=(
        Known(
            config={
                "adamw_lr": 5.5e-4,
                "adamw_weight_decay": 0.06,
                "batch_size": 128,
                "clip": 0.0,
                "augment": "trivial",
                "mixup": 0.8,
                "cutmix": 1.0,
                "averaging": 0.0,
                "drop_path": 0.1,
            },
            source="Hassani et al. 2021, arXiv:2104.05704, and its repository's setting for CIFAR-10: small transformers with AdamW, "
            "mixup and CutMix in the amounts of DeiT (Touvron et al. 2021, arXiv:2012.12877, table 9). Theirs is RandAugment, "
            "ours TrivialAugment",
        ),
        Known(
            config={
                "adamw_lr": 7e-4,
                "adamw_weight_decay": 0.05,
                "batch_size": 128,
                "clip": 0.0,
                "augment": "trivial",
                "cutmix": 1.0,
                "erase": 0.25,
                "averaging": 0.999,
                "drop_path": 0.1,
            },
            source="Liu et al. 2022, arXiv:2201.03545, table 5: ConvNeXt-T, AdamW at 4e-3 per 4096 images, stochastic depth 0.1, "
            "erasing and averaged weights; the rate is scaled by the root to batches of 128. Ours mixes less",
        ),
        Known(
            config={
                "optimizer": "sgd",
                "lr": 0.1,
                "weight_decay": 5e-4,
                "batch_size": 128,
                "clip": 0.0,
                "label_smoothing": 0.0,
                "averaging": 0.0,
            },
            source="Zagoruyko & Komodakis 2016, arXiv:1605.07146, section 3: Wide ResNet on CIFAR; the recipe sgd's first proposal "
            "without cutout",
        ),
    ),
)
