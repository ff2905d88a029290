"""Runs the main of a library with everything in it, as KoboldCPP's Python does: LIBRARY ARGS..."""

import ctypes
import sys

arguments = [argument.encode() for argument in sys.argv[1:]]
library = ctypes.CDLL(sys.argv[1])
sys.exit(library.main(len(arguments), (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)))
