"""ResNeXt of four bottleneck blocks, 8 to 32 planes: tries the machinery in seconds.

Command:   python study/run.py --budget 10cpu-minutes --data digits --arms tiny_resnet,tiny_resnext
Cost:      the stages' MACs differ from tiny_resnet's by 2: +1.5 %, 4: +3.0 % (base widths 40 and 24; from 8 groups
           on no width comes within 3 %); 0.75 to 0.85 times its images/s.
Expected:  as tiny_resnet.
"""

from search_spaces import Arm, Choice, Config, ImageSpec
from search_spaces._shared import BottleneckNet, matched_base_width, small_stem
from search_spaces.tiny_resnet import BLOCKS, PLANES


def base_width(cardinality: int) -> float:
    return matched_base_width(cardinality, PLANES, BLOCKS)


def build(config: Config, images: ImageSpec) -> BottleneckNet:
    groups = int(config["cardinality"])
    stem, width = small_stem(images), base_width(groups)
    return BottleneckNet(
        images, stem=stem, planes=PLANES, blocks=BLOCKS, cardinality=groups, base_width=width
    )


ARM = Arm(build, space={"cardinality": Choice(options=(2, 4), default=4)})
