"""What a device's runtime can run, why it cannot run a network, and the network made ready for it.

found = problems(source, "caffe-android-lib")                       # () where it can run it
ready = prepare(source, "caffe-android-lib", folder, allow=("relu6",))
ready.files                                                         # (folder/deploy.prototxt, folder/deploy.caffemodel)
"""

from __future__ import annotations

from surgery.targets.preparing import Answer, Prepared, answer, prepare, problems
from surgery.targets.problem import Problem, grouped
from surgery.targets.profiles import PROFILES, Profile
from surgery.targets.rewrites import REWRITES

__all__ = [
    "PROFILES",
    "REWRITES",
    "Answer",
    "Prepared",
    "Problem",
    "Profile",
    "answer",
    "grouped",
    "prepare",
    "problems",
]
