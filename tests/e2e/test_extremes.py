"""What a tool may ask for and hardly should (tests/e2e/tools/extremes.c)."""
import harness
from harness import EndToEnd


class Extremes(EndToEnd):
    def test_huge_maps_10000_probes_an_unread_buffer_and_a_library_that_goes(self):
        tool = self.session.load("extremes")
        status, output = tool.finish(200)
        self.assertEqual(status, 0, output + tool.stderr())
        self.assertNotIn("FAILED", output)
        self.session.bpftime("shutdown")
        self.assert_nothing_left()


if __name__ == "__main__":
    harness.main()
