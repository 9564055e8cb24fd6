"""What every pytest run needs, notebooks included: profile tiny, no network, nothing inherited from the shell."""

import os
import tempfile

for name in ("COURSE_DATA", "COURSE_SET", "COURSE_TEXTS", "COURSE_PROGRESS", "COURSE_REPO", "MPLBACKEND"):
    os.environ.pop(name, None)
os.environ |= {
    "COURSE_PROFILE": "tiny",
    "COURSE_OUTPUTS": tempfile.mkdtemp(prefix="course-outputs-"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",  # the tests mean the CPU wherever they run
    "OMP_NUM_THREADS": "1",  # one worker a core already; tiny models gain nothing from threads
}


def pytest_sessionfinish(session, exitstatus):
    import shutil

    shutil.rmtree(os.environ["COURSE_OUTPUTS"], ignore_errors=True)
