# Each target is lines that anyone could type.
.PHONY: help setup lock models demo test check hour bench package

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10

setup:  ## install what the tests need, and build the models
	tools/setup test

lock:  ## renew the locked versions of all Python packages
	tools/lock

models:  ## build the model files
	.venv/bin/python tools/build_models

demo:  ## hear a drive with four people, and see what the car is told
	tools/setup demo && .venv/bin/whodrives demo

# What listens to real time comes last: it mostly waits, and so four at once still find idle processors.
test:  ## everything that guards the project: tests, types, style, layers
	tools/setup test
	.venv/bin/pytest -m "not realtime" -n logical --dist loadfile --cov --cov-report=term
	.venv/bin/pytest -m realtime -n 4 --dist loadfile

check:  ## the quick part of that: types, style, spelling, scripts, layers
	tools/setup test && .venv/bin/pytest tests/unit/test_house_rules.py

hour:  ## an hour through a microphone, with accidents
	tools/setup test && .venv/bin/pytest -m hour

bench:  ## measure this machine
	tools/setup test && .venv/bin/python tools/bench

package:  ## make the Debian package for a car
	tools/setup test && tools/package/build
