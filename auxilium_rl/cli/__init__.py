"""The auxilium command."""

from auxilium_rl.wire.polling import poll_in_the_calling_thread

poll_in_the_calling_thread()
