"""ResNet of four bottleneck blocks, 8 to 32 planes: tries the machinery in seconds.

Command:   python study/run.py --budget 10cpu-minutes --data digits --arms tiny_resnet,tiny_resnext
Cost:      1.6 MMACs per 32-pixel image, 34,000 parameters; trains 2,400 images/s of 32 pixels on one CPU core,
           7,700 of 8 pixels.
Expected:  96 % of the validation images of scikit-learn's digits after 10 epochs at the default setting, in 4 s;
           on CIFAR-10 it is too small to say anything.
"""

from search_spaces import Arm, Config, ImageSpec
from search_spaces._shared import BottleneckNet, small_stem

PLANES = (8, 16, 32)
BLOCKS = (2, 1, 1)


def build(_config: Config, images: ImageSpec) -> BottleneckNet:
    return BottleneckNet(images, stem=small_stem(images), planes=PLANES, blocks=BLOCKS)


ARM = Arm(build)
