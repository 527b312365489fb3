"""What holds for every logger, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

from cosmos_forge.testing import LoggerContract


class TestNewPlugin(LoggerContract):
    use = "new-plugin"

    def test_a_line_an_event_that_was_asked_for(self, tmp_path):
        self.test_takes_every_event(tmp_path)
        lines = (tmp_path / "new-plugin.txt").read_text().splitlines()
        assert "RunStarted: name run" in lines[0] and "RunFinished: seconds 4.0" in lines[-1]
        assert not any(" Step: " in line for line in lines)
