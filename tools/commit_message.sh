#!/bin/sh
# Git's commit-msg hook: tools/commit_message.sh FILE. CONTRIBUTING.md has the rules that it checks.
set -eu
message=$(sed '/^# -* >8 -*$/,$d; /^#/d' "$1") # as git does, without comments and the diff of commit --verbose
subject=$(printf '%s\n' "$message" | sed -n 1p)
case $subject in Merge\ * | Revert\ * | fixup!\ * | squash!\ *) exit 0 ;; esac

verbs='Add|Chang|Check|Creat|Fix|Improv|Mak|Mov|Remov|Renam|Replac|Report|Support|Test|Updat|Us|Writ'
problems=$(
    [ "${#subject}" -le 72 ] || echo "  - the subject has ${#subject} characters; 72 at most"
    printf '%s\n' "$subject" | grep -qE '^[[:upper:]].*[^.]$' ||
        echo "  - the subject begins with a capital letter and ends without a full stop"
    ! printf '%s\n' "$subject" | grep -qE "^($verbs)(s|es|ed|ing) " ||
        echo "  - the subject is an imperative: \"Add\", not \"Added\", \"Adds\" or \"Adding\""
    [ -z "$(printf '%s\n' "$message" | sed -n 2p)" ] || echo "  - the second line is empty"
    [ -n "$(printf '%s\n' "$message" | sed 1,2d)" ] || echo "  - a body says why"
)
[ -z "$problems" ] && exit 0
printf 'error: the commit message needs a change:\n%s\n' "$problems" >&2
exit 1
