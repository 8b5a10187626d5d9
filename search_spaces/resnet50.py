"""ResNet-50 (He et al. 2015), from torchvision's bottleneck blocks: stride in the 3x3 convolution.

Command:   python study/run.py --budget 8gpu-hours --arms resnet50,resnext50
Cost:      1.30 GMACs per 32-pixel image (3x3 stem, 23.5 M parameters); 4.09 at 224 pixels (ImageNet's stem).
Known:     95.5 % on CIFAR-10 after 200 epochs at a tuned setting (mmpretrain; single run, picked on the test
           set); the seed post's fixed setting gave 92.3 % after 50.
"""

from search_spaces import Arm, Config, ImageSpec
from search_spaces._shared import BLOCKS_50, PLANES_50, BottleneckNet, large_stem


def build(_config: Config, images: ImageSpec) -> BottleneckNet:
    return BottleneckNet(images, stem=large_stem(images), planes=PLANES_50, blocks=BLOCKS_50)


ARM = Arm(build)
