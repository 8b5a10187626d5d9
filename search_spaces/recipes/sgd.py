"""SGD from scratch: the seed post's recipe and the published CIFAR ones around it. The default for nets without trained weights.

Its default is the post's fixed setting: batches of 32, a random flip and a rotation within 10 degrees, no label smoothing. Where
the post is silent, the choice is ours: Nesterov momentum 0.9, weight decay 5e-4 on all parameters, learning rate 0.025 (the usual
0.1 at batch 128, scaled linearly to 32: Goyal et al. 2017, arXiv:1706.02677), decayed by a cosine.
"""

from search_spaces import Choice, Float, Known, Recipe

RECIPE = Recipe(
    about="SGD with Nesterov momentum from scratch, as in the published CIFAR recipes. It does not cover adaptive optimizers, which "
    "transformers need, nor mixing, averaging or trained weights",
    warmup=0.1,
    space={
        "lr": Float(low=0.005, high=1.0, default=0.025, log=True),
        "weight_decay": Float(low=1e-5, high=5e-3, default=5e-4, log=True),
        "label_smoothing": Float(low=0.0, high=0.2, default=0.0),
        "augment": Choice(
            options=("none", "flip", "flip+crop", "flip+rotate", "flip+crop+cutout", "trivial"),
            default="flip+rotate",
        ),
        "batch_size": Choice(options=(32, 64, 128, 256), default=32),
        "schedule": Choice(options=("cosine", "linear"), default="cosine"),
    },
    known=(
        Known(
            config={"lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "augment": "flip+crop+cutout"},
            source="DeVries & Taylor 2017, arXiv:1708.04552, section 4: ResNet-18 and Wide ResNet on CIFAR with cutout; "
            "without it the recipe of Zagoruyko & Komodakis 2016, arXiv:1605.07146",
        ),
        Known(
            config={"lr": 0.1, "weight_decay": 5e-4, "batch_size": 128, "augment": "trivial"},
            source="Mueller & Hutter 2021, arXiv:2103.10158, section 4: Wide ResNet on CIFAR, cosine decay",
        ),
        Known(
            config={
                "lr": 0.1,
                "weight_decay": 1e-4,
                "batch_size": 256,
                "augment": "flip+crop",
                "label_smoothing": 0.1,
            },
            source="He et al. 2019, arXiv:1812.01187, sections 2 and 5: ResNet-50 on ImageNet, warm-up, cosine decay and label "
            "smoothing, learning rate 0.1 per 256 images",
        ),
    ),
)
