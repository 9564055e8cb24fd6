"""The course's command, `python -m shared.run`: what it does is in shared/course/run.py."""

from shared.course.run import main

if __name__ == "__main__":
    raise SystemExit(main())
