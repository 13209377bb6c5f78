import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.concurrent.Executors;

/**
 * GET /N answers with the SHA-256 of N. On the way: a null pointer, which the JVM finds by a SIGSEGV of its own, every so
 * often a stack that overflows, and garbage. Prints "ready PORT".
 */
public class DigestServer {
  private static volatile int[] none = null;
  private static volatile byte[] garbage;

  private static int depth(int n) {
    return depth(n + 1) + 1;
  }

  private static boolean faultsAreCaught(int n) {
    try {
      return none[n & 7] == 0;
    } catch (NullPointerException expected) {
      // as it should be
    }
    if (n % 50 == 0) {
      try {
        return depth(0) == 0;
      } catch (StackOverflowError expected) {
        // as it should be
      }
    }
    return true;
  }

  private static byte[] digest(String text) throws Exception {
    byte[] sum = MessageDigest.getInstance("SHA-256").digest(text.getBytes(StandardCharsets.US_ASCII));
    StringBuilder hex = new StringBuilder();
    for (byte b : sum) {
      hex.append(String.format("%02x", b));
    }
    return hex.toString().getBytes(StandardCharsets.US_ASCII);
  }

  private static void answer(HttpExchange exchange) throws IOException {
    String text = exchange.getRequestURI().getPath().substring(1);
    garbage = new byte[100_000];
    int status = 500;
    byte[] body = new byte[0];
    try {
      if (faultsAreCaught(Integer.parseInt(text))) {
        body = digest(text);
        status = 200;
      }
    } catch (Exception failure) {
      body = failure.toString().getBytes(StandardCharsets.UTF_8);
    }
    exchange.sendResponseHeaders(status, body.length);
    exchange.getResponseBody().write(body);
    exchange.close();
  }

  public static void main(String[] arguments) throws Exception {
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    server.createContext("/", DigestServer::answer);
    server.setExecutor(Executors.newFixedThreadPool(8));
    server.start();
    System.out.println("ready " + server.getAddress().getPort());
  }
}
