"""No cluster at all: the command runs in the process that submits it."""

from fcmae.core.errors import UserError
from fcmae.launch.cluster.base import Cluster, State
from fcmae.launch.cluster.job import Submission
from fcmae.launch.cluster.records import Record


class Debug(Cluster):
    """This very process. Nothing is queued, and so nothing waits, is shown or cancelled."""

    queues = False

    def submit(self, submission: Submission) -> list[str]:
        """Refuse: the command is run instead.

        Raises:
            UserError: always
        """
        raise UserError(f"--cluster {submission.options.cluster} queues nothing")

    def state(self, record: Record) -> State:
        """Return that a job has ended: none outlives the process that ran it."""
        return State("ENDED", False)

    def cancel(self, record: Record) -> None:
        """Do nothing: there is no job."""
