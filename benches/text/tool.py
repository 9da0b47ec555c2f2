"""What the scripts of this folder share: calls of the whit tool."""

import subprocess


def whit(args, *command):
    answer = subprocess.run([args.whit, *map(str, command)], capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"whit {command[0]}: {answer.stderr}")
    return answer.stdout
