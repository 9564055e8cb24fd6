"""Reports and READMEs from the results, `python -m shared.report`: what it does is in shared/course/report.py."""

from shared.course.report import main

if __name__ == "__main__":
    raise SystemExit(main())
