"""ResNet of four bottleneck blocks, 16 to 128 planes: the family of resnet50 at a size that a CPU can tune.

Command:   python study/run.py --budget 60cpu-minutes --arms small_resnet,small_resnext
Cost:      7.0 MMACs per 32-pixel image, 0.51 M parameters; trains 550 to 1,000 images/s on one CPU core.
Expected:  about 62 % after 10 epochs on 10,000 images of CIFAR-10 at a good learning rate, 47 % at a poor one
           (batch 128, flip+crop, one run each).
"""

from search_spaces import Arm, Config, ImageSpec
from search_spaces._shared import BottleneckNet, small_stem

PLANES = (16, 32, 64, 128)
BLOCKS = (1, 1, 1, 1)


def build(_config: Config, images: ImageSpec) -> BottleneckNet:
    return BottleneckNet(images, stem=small_stem(images), planes=PLANES, blocks=BLOCKS)


ARM = Arm(build)
